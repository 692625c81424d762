-- What a rollback keeps from coming back by itself, until it is lifted.
ALTER TABLE deployment ADD COLUMN hold TEXT;
-- For a promotion, the deploy of another Deployment whose Release it takes.
ALTER TABLE deploy ADD COLUMN promotes TEXT;
