"""What is trained: classification, detection, segmentation; a file a task."""
