"""The part of Farthing that lives inside the serving engine. Standard library only; vLLM imported lazily."""

__all__: list[str] = []
