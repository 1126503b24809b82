"""What a tagger looks at: graphs, features, particles and edges of jets, by gradients and by shuffling."""
