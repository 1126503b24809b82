"""The chain behind `subquad.hep.simulate`: hard process and shower, detector, jets, file. One file per link."""
