"""Models of three kinds, attacked and evaluated as anyone's."""
