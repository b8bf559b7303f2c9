"""What models say: tables of answers, the sheet of checkpoints, the prompt box."""
