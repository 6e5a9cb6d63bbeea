"""The command `wharf`. Client commands talk REST and import no Django; a command's modules are imported when it is called."""
