"""A page to play with, in the browser: `python -m tools.playground`.

studio   draws with a trained network while somebody watches
plane    points that flow through an exact score in the plane
canvas   what somebody drew, as an image and a mask
page     the page itself, made with Gradio
"""
