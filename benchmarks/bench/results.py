def write(folder, size, todo, docs=None, say=print):
    pass
