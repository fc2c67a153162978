"""What goes along with a file that is given to others: model card, Modelfile, upload."""
