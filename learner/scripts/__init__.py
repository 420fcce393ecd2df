"""Write a learner as a script of plain PyTorch: `to_script.py` collects the lines of each part."""
