"""The way of plain HTTP to the application behind this one's port."""
