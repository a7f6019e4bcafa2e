"""The lab: optimizers compared over data sets, starts and seeds, with every run on record."""
