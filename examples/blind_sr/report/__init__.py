"""One HTML file that shows the study on some photographs."""
