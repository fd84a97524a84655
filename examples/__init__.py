"""Models of several frameworks, attacked and evaluated as anyone's."""
