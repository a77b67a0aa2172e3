"""What a method is made of: rule, scores, schedules, allocation, structure, counts."""
