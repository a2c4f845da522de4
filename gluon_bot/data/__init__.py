"""Images and labels as the tasks take them."""
