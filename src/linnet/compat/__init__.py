"""Drop-in faces of other libraries: pure translation, no logic."""
