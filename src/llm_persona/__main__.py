"""`python -m llm_persona`, for launchers that start modules."""

from llm_persona.interfaces.cli.main import main

main()
