"""Published weights: the formats of their files, and the names and layouts inside.

readers          reads weights of any format as parameters of the networks here: READERS
formats          detects the format of a file; safetensors, msgpack, directories
torch_files      reads .pth files without PyTorch and without running their code
tensor_pickles   runs the pickles inside them, which may only build data
state_dicts      converts parameter trees to and from the layouts of score_sde (JAX and PyTorch)
score_sde_names  the names of parameters in score_sde
diffusers_names  the names of parameters in diffusers
"""
