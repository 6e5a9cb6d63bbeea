"""The node agent: containers, images, networks and volumes of one host, and its link to the control plane."""

__version__ = "0.1.0"
