"""The KV cache: window, bank, tiers, codecs and attention. What a policy's decisions are carried out with."""
