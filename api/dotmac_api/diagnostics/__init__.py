"""What only the operator can see on the hosts: logs, consumption, containers. The facade holds no SSH keys."""
