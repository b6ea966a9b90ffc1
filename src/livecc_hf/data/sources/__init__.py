"""The data sources that recipes can use."""
