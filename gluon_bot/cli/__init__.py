"""What a person types: parsing, dispatch, completion."""
