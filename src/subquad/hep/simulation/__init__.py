"""The chain behind `subquad.hep.simulator`: hard process and shower, detector, jets, file. One file per link."""
