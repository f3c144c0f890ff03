"""What each engine calls each signal: catalogues as data, one file per engine, and their model."""
