"""`densecli doctor`: checks of the machine, each one function that says what it saw and which command mends it.

Nothing in this package imports torch, cv2, sympy, numpy or sam2 into the process of the command: all of them may be
broken, or hang. What has to import them runs in a child process with a time limit (probes.py, smoke.py).
"""
