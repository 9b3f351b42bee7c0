"""Review queues as files that annotation tools import; each tool has its module."""
