"""The parts of a method: rule, scores, schedules, allocation, structure, counts."""
