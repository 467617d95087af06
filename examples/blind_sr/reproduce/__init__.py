"""The whole study, and the page that lays it beside the paper."""
