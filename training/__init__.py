"""How the starter is made: scenes with exact masks, photos with human ones, a network, its training and evaluation."""
