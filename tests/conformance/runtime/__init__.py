"""The runtime's own conformance suite, written from the OCI runtime spec 1.3: a file a section.

| config.md | file |
| --- | --- |
| version, valid values, extensibility | test_errors |
| root | test_root, test_roots (kinds of file systems), test_rootfs (what tries to get out) |
| mounts | test_mounts, test_stacked |
| process, user | test_process, test_exec, test_isolation (capabilities, no_new_privs) |
| hostname, domainname | test_hostname |
| hooks | test_hooks, test_lifecycle (failures) |
| annotations | test_annotations |

| config-linux.md | file |
| --- | --- |
| default file systems and devices, devices | test_devices, test_isolation |
| namespaces | test_namespaces, test_isolation |
| uidMappings, gidMappings | test_userns, test_rootless |
| timeOffsets | test_time_offsets |
| netDevices | test_net_devices |
| cgroupsPath, ownership | test_cgroups_path, test_unified |
| resources | test_resources, test_limits (what limits do), test_unified (cgroup v2), test_systemd |
| intelRdt | test_intel_rdt |
| memoryPolicy | test_memory_policy |
| sysctl | test_sysctl |
| seccomp | test_seccomp, test_listener |
| rootfsPropagation | test_rootfs_propagation |
| maskedPaths, readonlyPaths | test_paths, test_defaults |
| mountLabel | test_mount_label |
| personality | test_personality |

| runtime.md, features.md | file |
| --- | --- |
| state | test_state |
| lifecycle, operations | test_lifecycle, test_cli |
| errors | test_errors |
| features | test_features |

Beyond the spec: the command line (test_cli*), its callers (test_podman, test_rootless_podman, test_containerd), the defaults
(test_defaults), what Landlock refuses (test_landlock), checkpoints (test_checkpoint), known escapes (cve), other runtimes
(differential).
"""
