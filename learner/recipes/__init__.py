"""Recipes: YAML files that describe a learner, checked completely before anything is built."""
