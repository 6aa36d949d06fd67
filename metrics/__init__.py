"""What a prediction is worth: overlap, COCO mean average precision, region and boundary scores."""
