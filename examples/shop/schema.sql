create table categories (
    id   integer primary key,
    name text not null unique
);

create table items (
    id       integer primary key,
    name     text not null,
    price    integer not null check (price >= 0), -- in cents
    stock    integer not null check (stock >= 0),
    category text references categories (name),
    image    blob,                                -- a PNG file
    revision integer not null default 1
);

create table users (
    id       integer primary key,
    name     text not null unique,
    salt     blob not null,
    password blob not null                        -- as scrypt made it
);

create table tokens (
    digest  blob primary key,                     -- SHA-256 of what the user was given
    user_id integer not null references users (id)
);

create table orders (
    id      integer primary key,
    user_id integer not null references users (id)
);

create table order_lines (
    order_id integer not null references orders (id),
    item_id  integer not null references items (id),
    quantity integer not null check (quantity > 0),
    price    integer not null,                    -- of one piece, on that day
    primary key (order_id, item_id)
);
