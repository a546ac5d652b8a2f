"""From the workspace's rows to a version, its report, its certificate and its exports."""
