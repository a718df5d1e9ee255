"""The calls about one kind of things stored under a name: they differ in their messages alone.

Messages are alike by contract: of the kind "http_persona", requests have the fields `http_persona`,
`http_persona_id` and `http_persona_ids`, and answers `http_persona` and `http_personas`.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypeVar
from uuid import UUID

from google.protobuf.message import Message

from services.chassis.errors import FieldViolation, InvalidFields
from services.chassis.requests import request_key
from services.chassis.rules import ContractRules
from services.chassis.seal import Seal, binding
from services.chassis.server import Rules, ThoroughRules
from services.validation.documents import MAX_THINGS, Form
from services.validation.named_page import Place
from services.validation.named_store import NamedStore, New, Stored

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
# Bytes of a page, about: an answer has to fit into what clients take, 4 MiB by default.
PAGE_BYTES = 2 * 1024 * 1024
# Answers to repeated requests are kept for so long.
REQUEST_AGE = timedelta(days=1)

Thing = TypeVar("Thing", bound=Message)
Answer = TypeVar("Answer", bound=Message)
P = ParamSpec("P")
# What is wrong with a thing that stands at a path.
Check = Callable[[Any, str], Iterator[FieldViolation]]


class NamedCalls(Generic[Thing]):
    """Create, get, list, update, delete, export and import."""

    def __init__(
        self,
        store: NamedStore,
        seal: Seal,
        *,
        kind: str,
        form: Form[Thing],
        to_pb: Callable[[Stored], Thing],
        to_new: Callable[[Thing], New],
        check: Check,
        thorough: Check | None = None,
        requests: tuple[type[Message], ...] = (),
        listed: Callable[[Stored], Thing] | None = None,
        read_bytes: int = PAGE_BYTES,
    ) -> None:
        """`check` is the one that requests are checked by before they come here. `thorough`, where
        there is one, finds what takes long or needs to know the service, in a thread; `requests`
        are those that it is about, to create and to update. `listed` makes what lists show, where
        that is less than everything, and may have read `read_bytes` for a page."""
        self.store = store
        self._seal = seal
        self._kind = kind
        self._form = form
        self._requests = requests
        self._to_pb = to_pb
        self._to_new = to_new
        self._check = check
        self._thorough = thorough
        self._listed = listed or to_pb
        self._read_bytes = read_bytes
        self._contract = ContractRules()
        # Threads check one after another, with rules that are compiled when they are first needed.
        self._checking = asyncio.Lock()

    async def create(self, request: Any, answer: type[Answer]) -> Answer:
        """Raises InvalidFields, RequestIdReused, and that the name is taken."""
        thing: Thing = getattr(request, self._kind)
        await self.check(thing, self._kind)
        await self.store.forget_requests(REQUEST_AGE)
        response = await self.store.create(
            self._to_new(thing),
            request_key(request),
            self.answering(answer),
            validate_only=request.validate_only,
        )
        return answer.FromString(response)

    async def get(self, request: Any, answer: type[Answer]) -> Answer:
        """Raises that there is none."""
        stored = await self.store.get(UUID(getattr(request, f"{self._kind}_id")))
        return answer(**{self._kind: self._to_pb(stored)})

    async def list(self, request: Any, answer: type[Answer]) -> Answer:
        """Raises InvalidToken."""
        size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        bound = binding(request.DESCRIPTOR.name.removesuffix("Request"), b"")
        token = request.page_token
        after = Place.open(self._seal, token, bound).name if token else None
        stored, more = await self.store.page(after, size, self._read_bytes)
        things: list[Thing] = []
        room = PAGE_BYTES
        for each in stored:
            thing = self._listed(each)
            room -= thing.ByteSize()
            if things and room < 0:
                more = True
                break
            things.append(thing)
        response: Any = answer(**{f"{self._kind}s": things})
        if more:
            response.next_page_token = Place(stored[len(things) - 1].name).seal(self._seal, bound)
        shown: Answer = response
        return shown

    async def update(self, request: Any, answer: type[Answer]) -> Answer:
        """Raises InvalidFields, EtagMismatch, that there is none and that the name is taken."""
        thing: Any = getattr(request, self._kind)
        await self.check(thing, self._kind)
        response = await self.store.update(
            UUID(getattr(thing, f"{self._kind}_id")),
            self._to_new(thing),
            self.answering(answer),
            etag=thing.etag,
            validate_only=request.validate_only,
        )
        return answer.FromString(response)

    async def delete(self, request: Any, answer: type[Answer]) -> Answer:
        """Raises EtagMismatch, and that there is none."""
        thing_id = UUID(getattr(request, f"{self._kind}_id"))
        await self.store.delete(thing_id, etag=request.etag)
        return answer()

    async def export(self, request: Any, answer: type[Answer]) -> Answer:
        """Raises InvalidFields, and that there is none."""
        field = f"{self._kind}_ids"
        ids = list(dict.fromkeys(UUID(each) for each in getattr(request, field)))
        form = self._form
        stored = await self.store.some(ids, form.max_size)
        document = None
        if stored is not None and len(stored) <= MAX_THINGS:
            things = [self._to_pb(each) for each in stored]
            document = await asyncio.to_thread(form.write, things)
        if document is None or len(document.encode()) > form.max_size:
            description = (
                f"stand for more than a document holds, {MAX_THINGS:,} {self._words}s and"
                f" {form.max_size:,} bytes: name fewer"
            )
            raise InvalidFields([FieldViolation(field, description)])
        return answer(document=document)

    async def import_(self, request: Any, answer: type[Answer]) -> Answer:
        """Raises InvalidFields, and that a name is taken."""
        # A megabyte takes long enough to stop the checks of others.
        async with self._checking:
            things = await asyncio.to_thread(
                self._form.read, request.document, self._check_imported
            )

        def answered(stored: Sequence[Stored], replaced: int) -> bytes:
            shown = [self._to_pb(each) for each in stored]
            response = answer(**{f"{self._kind}s": shown, "replaced_count": replaced})
            return response.SerializeToString()

        response = await self.store.import_all(
            [self._to_new(each) for each in things],
            answered,
            replace=request.replace,
            validate_only=request.validate_only,
        )
        return answer.FromString(response)

    async def check(self, thing: Thing, path: str) -> None:
        """What takes long to find, or needs to know the service. Raises InvalidFields."""
        if self._thorough is not None:
            await self.run(self._thorough, thing, path)

    @property
    def thorough_rules(self) -> ThoroughRules:
        """The same of requests that are refused anyway."""

        async def check(request: Any) -> Sequence[FieldViolation]:
            if self._thorough is None or not request.HasField(self._kind):
                return ()
            return await self._run(self._thorough, getattr(request, self._kind), self._kind)

        return dict.fromkeys(self._requests, check)

    async def run(
        self, check: Callable[P, Iterator[FieldViolation]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """A check in a thread, when others have ended. Raises InvalidFields."""
        if violations := await self._run(check, *args, **kwargs):
            raise InvalidFields(violations)

    async def _run(
        self, check: Callable[P, Iterator[FieldViolation]], *args: P.args, **kwargs: P.kwargs
    ) -> Sequence[FieldViolation]:
        async with self._checking:
            return await asyncio.to_thread(lambda: list(check(*args, **kwargs)))

    def answering(self, answer: type[Message]) -> Callable[[Stored], bytes]:
        """What makes an answer of what was stored."""

        def answered(stored: Stored) -> bytes:
            return answer(**{self._kind: self._to_pb(stored)}).SerializeToString()

        return answered

    @property
    def _words(self) -> str:
        return self._kind.replace("_", " ")

    def _check_imported(self, thing: Thing, path: str) -> Iterator[FieldViolation]:
        named = set()
        # The other rules, too, look at no more of it than its limits allow.
        thing, violations = self._contract.look(thing)
        for each in violations:
            named.add(f"{path}.{each.field}")
            yield FieldViolation(f"{path}.{each.field}", each.description)
        for check in (self._check, self._thorough):
            if check is None:
                continue
            for each in check(thing, path):
                if each.field not in named:
                    named.add(each.field)
                    yield each


def rules_of(kind: str, create: type[Message], update: type[Message], check: Check) -> Rules:
    """What the contract's rules cannot say about these requests; `check` is about the thing."""

    def check_create(request: Any) -> Iterator[FieldViolation]:
        if request.HasField(kind):
            yield from check(getattr(request, kind), kind)

    def check_update(request: Any) -> Iterator[FieldViolation]:
        if not request.HasField(kind):
            return
        thing = getattr(request, kind)
        try:
            UUID(getattr(thing, f"{kind}_id"))
        except ValueError:
            yield FieldViolation(f"{kind}.{kind}_id", "is no UUID")
        yield from check(thing, kind)

    return {create: check_create, update: check_update}


def check_texts(thing: Any, path: str) -> Iterator[FieldViolation]:
    """What is wrong with the name and the description of a thing that stands at `path`."""
    if not thing.name.strip():
        yield FieldViolation(f"{path}.name", "is blank")
    for field in ("name", "description"):
        if "\0" in getattr(thing, field):
            yield FieldViolation(f"{path}.{field}", "has a NUL character, which no table takes")


def fill(message: Any, stored: Stored, kind: str) -> None:
    """What every thing has besides its own message."""
    setattr(message, f"{kind}_id", str(stored.id))
    message.name = stored.name
    message.description = stored.description
    message.etag = stored.etag
    message.create_time.FromDatetime(stored.create_time)
    message.update_time.FromDatetime(stored.update_time)
