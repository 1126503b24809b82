"""The simple models that a net has to beat, and what they see of a sequence."""
