"""The words every folder shares: columns and tables, the configuration, references to stored things, errors."""
