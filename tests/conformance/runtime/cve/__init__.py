"""One file a known escape. Each attack runs twice: against ours, and with the guard taken out at its seam, where it must succeed:
a probe that cannot find the hole proves nothing. Containers are children of this process, so that what a test patches here is
what they run."""
