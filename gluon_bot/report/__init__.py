"""Records beside the paper's numbers: Markdown, HTML, a page that renews itself."""
