"""Recipes: YAML files that say what a learner is made of, checked as a whole before anything is built."""
