"""Durable jobs: batches that outlive their connection.

`store` keeps them, `working` works on them, `resources` shows them over HTTP, `webhooks` tells others of their end, and
`openai` serves the Batch API of OpenAI with them. Nothing is imported here: each is asked for by its own name.
"""
