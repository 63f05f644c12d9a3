//! What clients see of one node: one module per section of the RFCs and per XEP.
