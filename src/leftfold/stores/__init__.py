"""The stores. Each implements `leftfold.store.Store`."""
