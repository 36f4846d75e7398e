"""Reading structure files, cleaning chains, geometry, and the Parquet store of chains."""
