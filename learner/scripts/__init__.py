"""Write a learner as a script of plain PyTorch: `to_script.py` collects what each part of it contributes."""
