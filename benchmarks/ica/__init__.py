"""The comparison of ICA implementations: problems x contestants, judged by a referee that shares no code with them."""
