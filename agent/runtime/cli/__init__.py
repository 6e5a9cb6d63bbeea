"""`wharf-runtime`: the OCI runtime's command line, with the options of runc and crun."""
