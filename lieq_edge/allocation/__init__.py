"""From a budget and evidence to a plan: the type of every tensor."""
