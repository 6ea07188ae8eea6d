"""The harness: grid -> design -> plan -> run -> track -> judge -> report. Never imports torch."""
