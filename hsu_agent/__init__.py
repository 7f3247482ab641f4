"""The agent: owns the processes of one host and keeps them as assigned."""
